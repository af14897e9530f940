-- One call of one process: what it owes is booked, then its requests are let go in order, as far as the limits and the turns
-- of the others allow. Microseconds of the server's clock throughout. A process has spent the time for which its requests
-- and tokens would take the endpoint's whole allowance.
--
-- KEYS: limits (hash), spent, waiting until, alive until (sorted sets of processes)
-- ARGV: process; requests a minute; tokens a minute; 1 for its first call on a connection; requests given back;
--       tokens used beyond the estimates; pause; estimate of each request that waits, in order
-- Returns: requests let go; how long the next one waits; processes alive
local SECOND = 1000000
local BURST = SECOND          -- what of the limits may be used at once
local MOST = 600 * SECOND     -- the longest that one request holds up the next
local AHEAD = SECOND / 4      -- how far one may be ahead of another that waits
local RETRY = SECOND / 20     -- until it may be its turn
local PATIENCE = SECOND       -- who has not come back so long after its wait does not wait any more
local ALIVE = 5 * SECOND
local FORGET = 3600           -- seconds after which nothing is remembered; more than any debt

local time = redis.call('TIME')
local now = time[1] * SECOND + time[2]
local me, joins = ARGV[1], ARGV[4] == '1'

local function worth(n, per_minute)
  per_minute = tonumber(per_minute)
  if per_minute == 0 then return 0 end
  return math.max(-MOST, math.min(n * 60 * SECOND / per_minute, MOST))
end

local function text(number) return string.format('%.0f', number) end

-- What went on while nobody wrote it down is not known: nothing is saved up then.
local known = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'paused', 'turn')
local function paid_at(value)
  local at = tonumber(value) or 0
  if joins or not value then return math.max(at, now + BURST) end
  return at
end
local requests, tokens = paid_at(known[1]), paid_at(known[2])
local paused, turn = tonumber(known[3]) or 0, tonumber(known[4]) or 0

local back, more = worth(tonumber(ARGV[5]), ARGV[2]), worth(tonumber(ARGV[6]), ARGV[3])
requests, tokens = requests - back, tokens + more
paused = math.max(paused, now + tonumber(ARGV[7]))

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', text(now))) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('ZREM', KEYS[4], gone)
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(now))

local spent = (tonumber(redis.call('ZSCORE', KEYS[2], me)) or turn) - back + more
-- Who did not wait has saved up nothing.
if not redis.call('ZSCORE', KEYS[3], me) then spent = math.max(spent, turn) end

local least
for _, other in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if other ~= me then
    local theirs = tonumber(redis.call('ZSCORE', KEYS[2], other)) or turn
    least = math.min(least or theirs, theirs)
  end
end

local go, wait = 0, 0
for i = 8, #ARGV do
  local request, estimate = worth(1, ARGV[2]), worth(tonumber(ARGV[i]), ARGV[3])
  local ready = math.max(paused, requests + math.min(request, BURST) - BURST, tokens + math.min(estimate, BURST) - BURST)
  if ready > now then wait = ready - now break end
  if least and spent > least + AHEAD then wait = RETRY break end
  turn = spent
  requests, tokens = math.max(requests, now) + request, math.max(tokens, now) + estimate
  spent = spent + request + estimate
  go = go + 1
end

redis.call('HSET', KEYS[1], 'requests', text(requests), 'tokens', text(tokens), 'paused', text(paused), 'turn', text(turn))
redis.call('ZADD', KEYS[2], text(spent), me)
redis.call('ZADD', KEYS[4], text(now + ALIVE), me)
if go < #ARGV - 7 then
  redis.call('ZADD', KEYS[3], text(now + math.min(wait, SECOND) + PATIENCE), me)
else
  redis.call('ZREM', KEYS[3], me)
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, FORGET) end
return { go, math.ceil(wait), redis.call('ZCARD', KEYS[4]) }
