-- Set values of a list that are still there, in their places.
--
-- KEYS[1]  chat:history:{u}[:session]   list of messages
-- ARGV[1..]  value that was seen, value to set, value that was seen, value to set, ...
--
-- Returns how many were set.
local done = 0
for i = 1, #ARGV, 2 do
  local place = redis.call('LPOS', KEYS[1], ARGV[i])
  if place then
    redis.call('LSET', KEYS[1], place, ARGV[i + 1])
    done = done + 1
  end
end
return done
