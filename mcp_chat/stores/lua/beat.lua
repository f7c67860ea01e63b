-- Note until when a worker's heartbeat counts.
--
-- KEYS[1]  workers   sorted set: worker ids by the time in ms until which their last beat counts
-- ARGV[1]  the worker's id
-- ARGV[2]  time to live of the beat in ms
-- ARGV[3]  time to live of the set in seconds
--
-- Returns 1.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
