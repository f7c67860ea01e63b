-- Delete a user's document. Who sends the same again is told the same, for a while.
--
-- KEYS[1]  chat:document:{u}:<kind>:<name>   string: version, space, text
-- KEYS[2]  chat:documents:{u}:<kind>         hash by names: end in ms, size in bytes, last write; size -1: dropped
-- ARGV[1]  the name
-- ARGV[2]  the version it must have; empty for any
-- ARGV[3]  names this deletion
-- ARGV[4]  time in ms for which it is known
--
-- Returns 1, or 0 if there is none, or it has another version.
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known and string.match(known, '%S+$') == ARGV[3] then return 1 end
local version = string.match(redis.call('GETRANGE', KEYS[1], 0, 20), '^%d+')
if not version or (ARGV[2] ~= '' and ARGV[2] ~= version) then return 0 end
local time = redis.call('TIME')
local ends = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[4])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f -1 %s', ends, ARGV[3]))
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
return 1
