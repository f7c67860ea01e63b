-- Delete one of a user's keys.
--
-- KEYS[1]  user:config:{u} or chat:history:{u}[:session]
-- KEYS[2]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  the writer's epoch
--
-- Returns 1, or 0 if a higher epoch owns the user.
if tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
return 1
