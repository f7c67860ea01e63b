-- Set a session's window and what is not shown of it, if both are as they were seen.
--
-- KEYS[1]  chat:history:{u}[:session]   list of messages as JSON, oldest first
-- KEYS[2]  active:session:{u}           hash: worker, epoch
-- KEYS[3]  chat:sides:{u}[:session]     string: what is not shown
-- ARGV[1]  the writer's epoch; empty for one who is no owner
-- ARGV[2]  SHA-1 of the window's messages as they were seen, a line feed behind each
-- ARGV[3]  SHA-1 of what was not shown then, of an empty text if there was nothing
-- ARGV[4]  time to live in seconds
-- ARGV[5]  what is not shown; empty for nothing
-- ARGV[6..]  messages
--
-- Returns 1, 0 if a higher epoch owns the user, or -1 if something has changed meanwhile.
local epoch = tonumber(ARGV[1])
if epoch and tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > epoch then return 0 end
local seen = {}
for _, message in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do seen[#seen + 1] = message .. '\n' end
if redis.sha1hex(table.concat(seen)) ~= ARGV[2] then return -1 end
if redis.sha1hex(redis.call('GET', KEYS[3]) or '') ~= ARGV[3] then return -1 end
redis.call('DEL', KEYS[1], KEYS[3])
for i = 6, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
if #ARGV > 5 then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'EX', ARGV[4]) end
return 1
