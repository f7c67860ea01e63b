-- Set a value if it is still the one that was seen; its time to live stays.
--
-- KEYS[1]  user:config:{u}   string
-- ARGV[1]  the value that was seen
-- ARGV[2]  the value to set
--
-- Returns how many were set: 1 or 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
