-- Take a user's lease if it is still the one the caller has seen.
--
-- KEYS[1]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  epoch the caller has seen, 0 for none
-- ARGV[2]  the caller's worker id
-- ARGV[3]  least new epoch, 0 for the time in ms
-- ARGV[4]  time to live of the lease in ms
--
-- Returns the new epoch, or 0 if somebody was faster.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch ~= tonumber(ARGV[1]) then return 0 end
local least = tonumber(ARGV[3])
if least == 0 then
  local time = redis.call('TIME')
  least = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local new = math.max(epoch + 1, least)
redis.call('HSET', KEYS[1], 'worker', ARGV[2], 'epoch', string.format('%.0f', new))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return new
