-- Take entries out of a user's log, and forget that commands were ever seen.
--
-- KEYS[1]  chat:events:{u}         stream of events
-- KEYS[2]  active:session:{u}      hash: worker, epoch
-- KEYS[3..]  chat:seen:{u}:<id>    string: end of the log when the command's id was first seen
-- ARGV[1]  the writer's epoch
-- ARGV[2..]  ids of entries
--
-- Returns 1, or 0 if a higher epoch owns the user.
if tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > tonumber(ARGV[1]) then return 0 end
for i = 2, #ARGV do redis.call('XDEL', KEYS[1], ARGV[i]) end
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
