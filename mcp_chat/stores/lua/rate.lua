-- Count a request of a user, unless there were too many in the last minute.
--
-- The generic cell rate algorithm: each request moves a moment on by the time that is due to it. As long as
-- that moment is less than a minute ahead the request is let through; so a minute's worth may come at once.
--
-- KEYS[1]  chat:rate:{u}   string: that moment, in microseconds
-- ARGV[1]  requests in a minute
--
-- Returns 0, or the microseconds after which the next request is let through.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local minute = 60000000
local moment = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + math.floor(minute / tonumber(ARGV[1]))
if moment - now > minute then return moment - now - minute end
redis.call('SET', KEYS[1], string.format('%.0f', moment), 'PX', math.ceil((moment - now) / 1000))
return 0
