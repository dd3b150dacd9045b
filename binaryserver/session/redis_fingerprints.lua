-- name
return table.concat(redis.call('LRANGE', key('fingerprints', ARGV[2]), 0, -1))
