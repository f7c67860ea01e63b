-- Append events to a user's log. Sending the same events again changes nothing.
--
-- KEYS[1]  chat:events:{u}      stream of events, field e; ids are <epoch>-<n>
-- KEYS[2]  active:session:{u}   hash: worker, epoch; lives as long as the log, to keep earlier owners out
-- KEYS[3]  chat:inbox:{u}       stream of commands; lives as long, too
-- ARGV[1]  the writer's epoch
-- ARGV[2]  entries to keep
-- ARGV[3]  time to live in seconds of all three
-- ARGV[4]  bell to ring; its note is what was appended, a line for each argument
-- ARGV[5..]  id, event as JSON, id, event as JSON, ...
--
-- Returns 1, 0 if a higher epoch owns the user, or -1 if the lease is gone or an earlier owner's:
-- the store has lost its data.
local epoch = tonumber(ARGV[1])
local owner = redis.call('HGET', KEYS[2], 'epoch')
if not owner or tonumber(owner) < epoch then return -1 end
if tonumber(owner) > epoch then return 0 end

-- The log's end as two numbers.
local function last()
  if redis.call('EXISTS', KEYS[1]) == 0 then return 0, 0 end
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local e, n = string.match(info[i + 1], '^(%d+)-(%d+)$')
      return tonumber(e), tonumber(n)
    end
  end
end

for i = 5, #ARGV, 2 do
  local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[i], 'e', ARGV[i + 1])
  if type(added) == 'table' and added.err then
    -- Refused. If the log's end is below this id it is for another reason, such as a full memory.
    local e, n = last()
    if e > epoch then return 0 end
    if e < epoch or n < tonumber(string.match(ARGV[i], '%d+$')) then return added end
  end
end
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
redis.call('PUBLISH', ARGV[4], table.concat(ARGV, '\n', 5))
return 1
