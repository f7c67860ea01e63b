-- Put a key away under another name, for a while.
--
-- KEYS[1]  the key
-- KEYS[2]  its other name
-- ARGV[1]  time to live in seconds
--
-- Returns 1.
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('RENAME', KEYS[1], KEYS[2])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
return 1
