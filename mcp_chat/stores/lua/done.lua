-- Take a command that has ended out of a user's inbox.
--
-- KEYS[1]  chat:inbox:{u}       stream of commands
-- KEYS[2]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  the writer's epoch
-- ARGV[2]  the command's place
--
-- Returns 1, or 0 if a higher epoch owns the user.
if tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
