-- Add entries to the copy of a stream.
--
-- KEYS[1]  chat:renewed:{u}:<n>   stream with one field an entry
-- ARGV[1]  time to live in seconds of a copy that nobody finishes
-- ARGV[2..]  id, field, value, id, ...
--
-- Returns 1.
for i = 2, #ARGV, 3 do redis.call('XADD', KEYS[1], ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
