-- Set values of a stream's entries that are still there. A stream cannot be changed, so it is written anew,
-- with the same ids: nobody can come in between.
--
-- KEYS[1]  chat:events:{u} or chat:inbox:{u}   stream with one field an entry
-- ARGV[1..]  id, value that was seen, value to set, id, ...
--
-- Returns how many were set.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local wanted, done = {}, 0
for i = 1, #ARGV, 3 do wanted[ARGV[i]] = {ARGV[i + 1], ARGV[i + 2]} end
local entries = redis.call('XRANGE', KEYS[1], '-', '+')
local last
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
for _, entry in ipairs(entries) do
  local change = wanted[entry[1]]
  if change and entry[2][2] == change[1] then
    entry[2][2] = change[2]
    done = done + 1
  end
end
if done == 0 then return 0 end
redis.call('XSETID', KEYS[1], last)  -- refused when the memory is full, as long as nothing is lost
local ttl = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
for _, entry in ipairs(entries) do redis.call('XADD', KEYS[1], entry[1], entry[2][1], entry[2][2]) end
redis.call('XSETID', KEYS[1], last)
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) end
return done
