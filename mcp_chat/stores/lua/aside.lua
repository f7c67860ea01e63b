-- Put values that cannot be read aside, out of a window.
--
-- KEYS[1]  chat:history:{u}[:session]   list of messages as JSON, or a key of a wrong type
-- KEYS[2]  chat:aside:{u}               list of what was put aside
-- KEYS[3]  chat:aside:{u}:key           the key of a wrong type
-- ARGV[1]  time to live in seconds of what was put aside
-- ARGV[2..]  values
--
-- Returns 1.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'list' then
  for i = 2, #ARGV do
    if redis.call('LREM', KEYS[1], 1, ARGV[i]) > 0 then redis.call('RPUSH', KEYS[2], ARGV[i]) end
  end
elseif kind ~= 'none' then
  redis.call('RENAME', KEYS[1], KEYS[3])
end
for i = 2, 3 do
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('EXPIRE', KEYS[i], ARGV[1]) end
end
return 1
