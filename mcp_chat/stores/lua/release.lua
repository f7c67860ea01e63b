-- Give a lease up if it is still the caller's. The epoch stays, so that it keeps rising.
--
-- KEYS[1]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  the caller's epoch
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'worker', '')
end
return 1
