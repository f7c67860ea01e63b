-- Give a lease up if it is still the caller's. The epoch stays, so that it keeps rising.
--
-- KEYS[1]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  the caller's epoch
--
-- Returns 1, or 0 if it is not: somebody else, or the same worker anew, has claimed the user.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'worker', '')
return 1
