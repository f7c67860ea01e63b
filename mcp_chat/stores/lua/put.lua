-- Put a command into a user's inbox unless its id was seen before.
--
-- KEYS[1]  chat:inbox:{u}         stream of commands, field c
-- KEYS[2]  chat:seen:{u}:<id>     string: end of the log when the id was first seen
-- KEYS[3]  chat:events:{u}        stream of events
-- ARGV[1]  the command as JSON
-- ARGV[2]  most commands that may wait
-- ARGV[3]  time to live in seconds of the inbox
-- ARGV[4]  again: the command was accepted before and the store has lost it, so all of the log may be about it
-- ARGV[5]  time to live in seconds of the id
--
-- Returns the end of the log when the id was first seen, or 'full'.
local seen = redis.call('GET', KEYS[2])
if seen then return seen end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 'full' end
local place = '0-0'
if ARGV[4] ~= 'again' and redis.call('EXISTS', KEYS[3]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[3])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then place = info[i + 1] end
  end
end
redis.call('XADD', KEYS[1], '*', 'c', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], place, 'EX', ARGV[5])
return place
