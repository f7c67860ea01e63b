-- Count what a user has spent on a day, each step once. Sending the same again changes nothing.
--
-- KEYS[1]  chat:usage:{u}:<day>   hash: steps as JSON by their ids
-- KEYS[2]  active:session:{u}     hash: worker, epoch
-- ARGV[1]  the writer's epoch
-- ARGV[2]  time to live in seconds
-- ARGV[3..]  id and step, by turns
--
-- Returns 1, or 0 if a higher epoch owns the user.
if tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > tonumber(ARGV[1]) then return 0 end
for i = 3, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
