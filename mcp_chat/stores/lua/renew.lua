-- Let a lease live on if it is still the caller's.
--
-- KEYS[1]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  the caller's worker id
-- ARGV[2]  the caller's epoch
-- ARGV[3]  time to live of the lease in ms
-- ARGV[4]  anew: write a lease that the store has lost again; empty: leave it so
--
-- Returns 1, 0 if it is somebody else's, or -1 if there is none. One that an earlier owner has written anew
-- counts as none: the store has lost its data.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and tonumber(epoch) < tonumber(ARGV[2]) then epoch = nil end
if not epoch and ARGV[4] ~= 'anew' then return -1 end
if epoch and (epoch ~= ARGV[2] or redis.call('HGET', KEYS[1], 'worker') ~= ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'worker', ARGV[1], 'epoch', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
