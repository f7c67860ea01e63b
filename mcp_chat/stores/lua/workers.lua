-- List workers.
--
-- KEYS[1]  workers   sorted set: worker ids by the time in ms until which their last beat counts
-- ARGV[1]  alive: those whose beat counts; silent: the others
--
-- Returns their ids.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
if ARGV[1] == 'alive' then return redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf') end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
