-- Put a copy in the place of a stream, with what has been added to the stream since; its time to live stays.
--
-- KEYS[1]  chat:events:{u} or chat:inbox:{u}   stream
-- KEYS[2]  chat:renewed:{u}:<n>                its copy, up to some entry
-- ARGV[1]  id of the last entry that was copied
-- ARGV[2]  entries that may have been added since: more would take too long
--
-- Returns 1, or 0 if the stream is not that of the copy any more: then the copy is gone.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local since = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2] + 1)
if first then redis.call('XTRIM', KEYS[2], 'MINID', '=', first[1]) end
local same = redis.call('XLEN', KEYS[1]) - #since == redis.call('XLEN', KEYS[2])
if not first or #since > tonumber(ARGV[2]) or not same then
  redis.call('UNLINK', KEYS[2])
  return 0
end
local last
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local ttl = redis.call('PTTL', KEYS[1])
for _, entry in ipairs(since) do redis.call('XADD', KEYS[2], entry[1], entry[2][1], entry[2][2]) end
redis.call('XSETID', KEYS[2], last)
if ttl > 0 then redis.call('PEXPIRE', KEYS[2], ttl) else redis.call('PERSIST', KEYS[2]) end
redis.call('UNLINK', KEYS[1])
redis.call('RENAME', KEYS[2], KEYS[1])
return 1
