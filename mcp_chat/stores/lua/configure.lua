-- Set a user's sealed configuration.
--
-- KEYS[1]  user:config:{u}      string
-- KEYS[2]  active:session:{u}   hash: worker, epoch
-- ARGV[1]  the writer's epoch
-- ARGV[2]  the sealed configuration
-- ARGV[3]  time to live in seconds
--
-- Returns 1, or 0 if a higher epoch owns the user.
if tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
