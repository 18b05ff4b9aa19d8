-- Requests for wrk: constant heads from a file, a JSON-RPC id (and, if asked for, a traceparent) of its own in each.
--
-- arg[1]: file of heads, one per block, blocks end with a line "%%"; a head ends with the blank line, its
--         Content-Length fits. After the head comes the body. "@I" x 5 (10 bytes) stands for the id,
--         "@T" x 16 (32 bytes) for the trace id.
-- arg[2]: how many requests have been sent before; heads and ids go on from there.
-- The id has ten digits always, so that Content-Length stays true.

local parts = {}
local count = 0
local turn = 0
local id = 1000000000

function init(args)
    local file = assert(io.open(args[1], "rb"))
    local text = file:read("*a")
    file:close()
    for block in text:gmatch("(.-)%%%%\n") do
        local before, rest = block:match("^(.-)@T@T@T@T@T@T@T@T@T@T@T@T@T@T@T@T(.*)$")
        if before == nil then
            rest = block
        end
        local middle, after = rest:match("^(.-)@I@I@I@I@I(.*)$")
        count = count + 1
        parts[count] = {before, middle, after}
    end
    assert(count > 0, "no heads in " .. args[1])
    turn = tonumber(args[2]) % count
    id = id + tonumber(args[2])
end

function request()
    turn = turn + 1
    if turn > count then
        turn = 1
    end
    id = id + 1
    local part = parts[turn]
    if part[1] then
        return part[1] .. string.format("%08x%08x%08x%08x", id, id * 7 % 4294967296, turn, id) .. part[2] .. id .. part[3]
    end
    return part[2] .. id .. part[3]
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\n@@{"requests":%d,"microseconds":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p50":%d,"p90":%d,"p99":%d,"max":%d}\n',
        summary.requests, summary.duration, summary.bytes,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout,
        latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
