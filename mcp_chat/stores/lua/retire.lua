-- Let what is left of a user who has disconnected expire soon.
--
-- KEYS[1]  active:session:{u}   hash: worker, epoch; stays so long, to keep earlier owners out
-- KEYS[2]  chat:events:{u}      stream of events; stays so long, for those who wait for an end
-- KEYS[3]  chat:inbox:{u}       stream of commands
-- ARGV[1]  the writer's epoch
-- ARGV[2]  time to live in seconds
--
-- Returns 1, or 0 if a higher epoch owns the user.
if tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') > tonumber(ARGV[1]) then return 0 end
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[2]) end
return 1
