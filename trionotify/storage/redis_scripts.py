"""The scripts that run inside Redis. Each is one atomic step, and only scripts write.

Scripts get the keys of a hub in this order:

| key | type | holds |
| --- | --- | --- |
| `log` | stream | entries at `OFFSET-0`: notification `e`, and `m`: chain, ms, size and key |
| `meta` | hash | `epoch`, `top`, its `chain`, `start`, its `edge` (the chain there), `bytes`, `moment` |
| `ids` | hash | for each entry that can be repeated, by its key, the offset and chain |
| `nodes` | hash | for each process, when its lease ends, in ms, and the text that it registers |

The *chain* of an entry is a digest of its `e` and of the previous entry's chain. So if an offset has the
same chain in two logs, the logs are equal up to there.

In each script all checks come before all writes, because Redis does not undo writes. If it is out of
memory or read-only, it refuses the first one. But it checks the rights of the user at each one, so a
script with several writes first asks whether they are allowed (`lacking`).

The *log's clock* is that of Redis. When that is set back by up to a minute, it stands still. It follows
a larger step, because otherwise no age would count for long. Leases go by the clock of Redis itself.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ALL", "APPEND", "BEAT", "EVICT", "FIND", "MISSING", "RENEW", "RIGHTS"]

_META: Final = """
local LOG, META, IDS = KEYS[1], KEYS[2], KEYS[3]
local meta = redis.call('HMGET', META, 'epoch', 'top', 'chain', 'start', 'edge', 'bytes', 'moment')
local epoch, chain, edge = meta[1], meta[3], meta[5]
local top, start = tonumber(meta[2] or 0), tonumber(meta[4] or 0)
local bytes, moment = tonumber(meta[6] or 0), tonumber(meta[7] or 0)
redis.call('XLEN', LOG)
redis.call('HLEN', IDS)
local time = redis.call('TIME')
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
local now = clock
if moment > clock and moment < clock + 60000 then now = moment end
local function text(number) return string.format('%.0f', number) end
local function facts(row)
  local chain, at, size, key = string.match(row[2][4], '^(%x+) (%d+) (%d+) (.*)$')
  return chain, tonumber(at), tonumber(size), key
end
-- Another program may have deleted the stream, or Redis may have evicted it.
local function begin_empty()
  if start == top or redis.call('XLEN', LOG) > 0 then return false end
  start, edge, bytes = top, chain, 0
  redis.call('DEL', IDS)
  return true
end
local function keep()
  redis.call('HSET', META, 'epoch', epoch, 'top', text(top), 'chain', chain, 'start', text(start),
    'edge', edge, 'bytes', text(bytes), 'moment', text(now))
end
local function lacking()
  local may = redis.acl_check_cmd
  local name = not may('xtrim', LOG, 'MINID', '1') and 'xtrim' or not may('del', LOG, IDS) and 'del'
    or not may('hset', META, '', '') and 'hset' or not may('hset', IDS, '', '') and 'hset'
    or not may('hdel', IDS, '') and 'hdel'
  return name and redis.error_reply('NOPERM this user may not run "' .. name .. '"')
end
"""

# Drops entries that exceed the limits, the oldest first, and at most about `budget` of them. A script
# that begins with it does nothing if the user lacks a right.
_EVICT: Final = """
local function evict(max_entries, max_bytes, max_age, budget)
  local before = start
  while start < top and budget > 0 do
    -- If only age can be too much, the oldest is likely to stay.
    local count, many = 1, top - start > max_entries or bytes > max_bytes or start > before
    if many then count = math.max(1, math.min(1048576 / (bytes / (top - start) + 1), budget, 64)) end
    local rows = redis.call('XRANGE', LOG, text(start + 1) .. '-0', '+', 'COUNT', math.floor(count))
    local gone, done = {}, #rows == 0
    if done then start, edge, bytes = top, chain, 0 end
    for _, row in ipairs(rows) do
      local there, at, size, key = facts(row)
      if top - start <= max_entries and bytes <= max_bytes and at >= now - max_age then
        done = true
        break
      end
      start, edge, bytes = tonumber(string.match(row[1], '^%d+')), there, bytes - size
      if key ~= '' then gone[#gone + 1] = key end
      budget = budget - 1
    end
    redis.call('XTRIM', LOG, 'MINID', text(start + 1) .. '-0')
    if #gone > 0 then redis.call('HDEL', IDS, unpack(gone)) end
    if done then break end
  end
  return start > before
end
local refusal = lacking()
if refusal then return refusal end
"""

#: ARGV: epoch, max_entries, max_bytes, max_age in ms, an offset, and how many entries to return at most;
#: then for each entry its `e`, size, and key or ''.
#: Returns start, bytes, top and its chain; all entries after the offset that were there before, or none
#: if they are too many; and for each repetition its number, and the first's offset and chain.
APPEND: Final = (
    _META
    + _EVICT
    + """
if epoch ~= ARGV[1] then return redis.error_reply('EPOCH ' .. (epoch or 'none')) end
begin_empty()
local after, before = tonumber(ARGV[5]), {}
if top > after and top - after <= tonumber(ARGV[6]) then
  before = redis.call('XRANGE', LOG, text(after + 1) .. '-0', '+')
end
local found, count, at = {'', '', '', '', before}, 0, text(now)
for i = 7, #ARGV, 3 do
  local payload, size, key = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local first = key ~= '' and redis.call('HGET', IDS, key)
  if not first then
    top, bytes, count = top + 1, bytes + tonumber(size), count + 1
    chain = string.sub(redis.sha1hex(chain .. payload), 1, 16)
    redis.call('XADD', LOG, text(top) .. '-0',
      'e', payload, 'm', chain .. ' ' .. at .. ' ' .. size .. ' ' .. key)
    if key ~= '' then redis.call('HSET', IDS, key, text(top) .. ' ' .. chain) end
  else
    found[#found + 1], found[#found + 2] = (i - 4) / 3, first
  end
end
if count > 0 then
  evict(tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), count + 64)
  keep()
end
found[1], found[2], found[3], found[4] = text(start), text(bytes), text(top), chain
return found
"""
)

#: ARGV: max_entries, max_bytes, max_age in ms. It may run when Redis is out of memory, to free some.
EVICT: Final = (
    "#!lua flags=allow-oom"
    + _META
    + _EVICT
    + """
if epoch and evict(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), 1024) then keep() end
"""
)

#: KEYS[4] is `nodes`. ARGV: an offset, an epoch for a log that doesn't exist, the process, the text that
#: it registers ('' when it leaves), and the lease in ms.
#: Returns epoch, top, chain, start, edge, bytes, the clock of Redis, the chain at the offset or '', and
#: the texts of all processes that hold a lease.
BEAT: Final = (
    _META
    + """
if not epoch then
  local refusal = lacking()
  if refusal then return refusal end
  epoch, top, start, bytes = ARGV[2], 0, 0, 0
  chain = string.sub(redis.sha1hex(epoch), 1, 16)
  edge = chain
  redis.call('HLEN', KEYS[4])
  redis.call('HSET', META, 'epoch', epoch)
  redis.call('DEL', LOG, IDS)
  keep()
elseif begin_empty() then
  keep()
end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[4], ARGV[3])
else
  redis.call('HSET', KEYS[4], ARGV[3], text(clock + tonumber(ARGV[5])) .. ' ' .. ARGV[4])
end
local nodes, all = {}, redis.call('HGETALL', KEYS[4])
for i = 1, #all, 2 do
  local ends, said = string.match(all[i + 1], '^(%d+) (.*)$')
  -- After the clock was set back, those of nodes that are gone would seem to last for long.
  if ends and tonumber(ends) >= clock and tonumber(ends) < clock + 60000 + tonumber(ARGV[5]) then
    nodes[#nodes + 1] = said
  else
    redis.call('HDEL', KEYS[4], all[i])
  end
end
local at, there = tonumber(ARGV[1]), ''
if at == top then there = chain elseif at == start then there = edge else
  local rows = redis.call('XRANGE', LOG, text(at) .. '-0', text(at) .. '-0')
  if rows[1] then there = facts(rows[1]) end
end
return {epoch, text(top), chain, text(start), edge, text(bytes), text(clock), there, nodes}
"""
)

#: ARGV: the current epoch, and the next one.
RENEW: Final = (
    _META
    + """
if epoch == ARGV[1] then redis.call('HSET', META, 'epoch', ARGV[2]) end
"""
)

#: ARGV: a time in ms, or '' and how many ms ago. Returns the offset after which all entries were
#: appended then or later, and the chain there, or ''.
FIND: Final = (
    _META
    + """
local at = tonumber(ARGV[1]) or now - tonumber(ARGV[2])
local low, high = start + 1, top + 1
while low < high do
  local middle = math.floor((low + high) / 2)
  local rows = redis.call('XRANGE', LOG, text(middle) .. '-0', '+', 'COUNT', 1)
  if not rows[1] or select(2, facts(rows[1])) >= at then high = middle else low = middle + 1 end
end
local found, there = low - 1, edge
if found == top then there = chain elseif found > start then
  -- Another program may have deleted that entry.
  local rows = redis.call('XRANGE', LOG, text(found) .. '-0', text(found) .. '-0')
  there = rows[1] and facts(rows[1]) or ''
end
return {text(found), there}
"""
)

#: ARGV: keys of the shelf. Returns the numbers of those that don't exist.
MISSING: Final = """
local missing = {}
for i, key in ipairs(ARGV) do
  if redis.call('EXISTS', key) == 0 then missing[#missing + 1] = i end
end
return missing
"""

#: KEYS[4] is `nodes`. ARGV: a key of the shelf, and the durability. It runs none of the commands that it
#: lists, because a script that fails in the middle would leave the log damaged.
RIGHTS: Final = """
local LOG, META, IDS, NODES, SHELF = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local commands = {
  {'xadd', LOG, '1-0', 'e', ''}, {'xtrim', LOG, 'MINID', '1'}, {'xlen', LOG}, {'del', LOG},
  {'xrange', LOG, '-', '+'}, {'xread', 'BLOCK', '1', 'STREAMS', LOG, '1'},
  {'hmget', META, 'epoch'}, {'hset', META, 'epoch', ''},
  {'hlen', IDS}, {'hget', IDS, ''}, {'hset', IDS, '', ''}, {'hdel', IDS, ''}, {'del', IDS},
  {'hlen', NODES}, {'hgetall', NODES}, {'hset', NODES, '', ''}, {'hdel', NODES, ''},
  {'time'}, {'set', SHELF, '', 'EX', '1'}, {'getdel', SHELF}, {'exists', SHELF},
}
if ARGV[2] == 'replicated' then commands[#commands + 1] = {'wait', '1', '1'} end
for _, command in ipairs(commands) do
  if not redis.acl_check_cmd(unpack(command)) then
    return redis.error_reply('NOPERM this user may not run "' .. command[1] .. '"')
  end
end
"""

ALL: Final = (APPEND, EVICT, BEAT, RENEW, FIND, MISSING, RIGHTS)
