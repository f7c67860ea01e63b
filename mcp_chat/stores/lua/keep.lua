-- Set a user's document. Sending the same write again changes nothing.
--
-- KEYS[1]  chat:document:{u}:<kind>:<name>   string: version, space, text
-- KEYS[2]  chat:documents:{u}:<kind>         hash by names: end in ms, size in bytes, last write; size -1: dropped
-- KEYS[3]  chat:version:{u}                  string: the last version of any of the user's documents
-- KEYS[4]  active:session:{u}                hash: worker, epoch
-- ARGV[1]  the writer's epoch; empty for one who is no owner
-- ARGV[2]  the name
-- ARGV[3]  the text
-- ARGV[4]  time to live in ms
-- ARGV[5]  the version it must have, 0 for none; empty for any
-- ARGV[6]  names this write
-- ARGV[7]  most documents of this kind
-- ARGV[8]  most bytes of them together
-- ARGV[9]  time to live in ms of the last version
--
-- Returns the new version, or 'fenced' if a higher epoch owns the user, 'other' if it has another version,
-- 'full' if there is no room.
local epoch = tonumber(ARGV[1])
if epoch and tonumber(redis.call('HGET', KEYS[4], 'epoch') or '0') > epoch then return 'fenced' end
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(micros / 1000)
local version = string.match(redis.call('GETRANGE', KEYS[1], 0, 20), '^%d+') or '0'
local known = redis.call('HGET', KEYS[2], ARGV[2])
if known and version ~= '0' and string.match(known, '%S+$') == ARGV[6] then return version end
if ARGV[5] ~= '' and ARGV[5] ~= version then return 'other' end

local most = tonumber(ARGV[7])
local ends = now + tonumber(ARGV[4])
local count, bytes, dropped, last = 1, #ARGV[3], 0, ends
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local name, ended, size = all[i], string.match(all[i + 1], '^(%d+) (%-?%d+)')
  ended, size = tonumber(ended), tonumber(size)
  if size < 0 then dropped = dropped + 1 end
  if ended <= now or dropped > most then
    redis.call('HDEL', KEYS[2], name)
  elseif name ~= ARGV[2] then
    if size >= 0 then count, bytes = count + 1, bytes + size end
    last = math.max(last, ended)
  end
end
if count > most or bytes > tonumber(ARGV[8]) then return 'full' end

-- Above every earlier one, even if Redis has lost it: the clock in microseconds is.
local new = string.format('%.0f', math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, micros))
redis.call('SET', KEYS[3], new, 'PX', ARGV[9])
redis.call('SET', KEYS[1], new .. ' ' .. ARGV[3], 'PX', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[2], string.format('%.0f %d %s', ends, #ARGV[3], ARGV[6]))
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', last))
return new
