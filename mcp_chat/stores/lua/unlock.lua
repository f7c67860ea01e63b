-- Open a gate if the token is the one that closed it.
--
-- KEYS[1]  session:lock:{u}   string: token
-- ARGV[1]  the caller's token
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
