-- Append messages to a session's window, trim it and let it live on. Sending the same again changes nothing.
--
-- KEYS[1]  chat:history:{u}[:session]   list of messages as JSON, oldest first
-- KEYS[2]  active:session:{u}           hash: worker, epoch
-- KEYS[3]  chat:sides:{u}[:session]     string: what is not shown; goes with the window, and lives as long
-- ARGV[1]  the writer's epoch; empty for one who is no owner
-- ARGV[2]  messages to keep
-- ARGV[3]  time to live in seconds
-- ARGV[4]  append: only to a window that exists; create: to a new one too; replace: begin anew
-- ARGV[5..]  messages
--
-- Returns 1, or 0 if a higher epoch owns the user.
local epoch = tonumber(ARGV[1])
if epoch and tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > epoch then return 0 end
if ARGV[4] == 'replace' then redis.call('DEL', KEYS[1], KEYS[3]) end
if ARGV[4] == 'append' and redis.call('EXISTS', KEYS[1]) == 0 then return 1 end
if #ARGV < 5 then return 1 end
-- A message that was sent again is among the newest: as many as may be on their way at the same time.
local newest = 60 + #ARGV
for i = 5, #ARGV do
  if not redis.call('LPOS', KEYS[1], ARGV[i], 'RANK', -1, 'MAXLEN', newest) then
    redis.call('RPUSH', KEYS[1], ARGV[i])
  end
end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[4] == 'create' then redis.call('EXPIRE', KEYS[3], ARGV[3]) end
return 1
