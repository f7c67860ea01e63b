-- Delete one of a user's keys, and those that go with it.
--
-- KEYS[1]  user:config:{u} or chat:history:{u}[:session]
-- KEYS[2]  active:session:{u}   hash: worker, epoch
-- KEYS[3..]  chat:sides:{u}[:session]
-- ARGV[1]  the writer's epoch; empty for one who is no owner
--
-- Returns 1, or 0 if a higher epoch owns the user.
local epoch = tonumber(ARGV[1])
if epoch and tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > epoch then return 0 end
redis.call('DEL', KEYS[1])
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
