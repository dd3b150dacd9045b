-- account or nothing, prefix of the asset, 1 or 0 or nothing for connected or not or either, behind which name or nothing, limit
local account, wanted, connected, after, limit = unpack(ARGV, 2)
local least, most = '-', '+'
if account ~= '' then
  -- The sign after the tab, and one that no name has.
  least, most = '[' .. account .. '\t' .. wanted, '(' .. account .. '\t' .. wanted .. '\255'
end
if after ~= '' then
  after = listed(after)
  if account == '' or account .. '\t' .. wanted <= after then
    least = '(' .. after
  end
end
local names = redis.call('ZRANGEBYLEX', prefix .. 'names', least, most, 'LIMIT', 0, limit)
local found = {}
for _, one in ipairs(names) do
  local name = string.gsub(one, '\t', '/', 1)
  local _, asset = parts(name)
  if string.sub(asset, 1, #wanted) == wanted then
    local box = redis.call('HMGET', key('box', name), 'owner', 'epoch', 'connected', 'seen', 'protocol', 'peer', 'since',
      'listening')
    if box[1] and (connected == '' or box[3] == connected) then
      found[#found + 1] = name .. '\n' .. table.concat(box, '\n') .. '\n'
    end
  end
end
local last = #names == tonumber(limit) and string.gsub(names[#names], '\t', '/', 1) or ''
return last .. '\n' .. table.concat(found)
