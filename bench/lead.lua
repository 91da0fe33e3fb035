-- The requests that wrk sends: leads, each from another renter.
local prefix, number = "", 0

function init(args)
  math.randomseed(os.time())
  -- The address of the thread's table makes it unique, as threads share no counter.
  prefix = string.format("%x%s", os.time() % 0xffffff, tostring(wrk.thread):gsub("%W", ""))
end

function request()
  number = number + 1
  local body = string.format(
    '{"token": "bench", "tour_request": {"requestor_name": "Jane Doe %d", '
      .. '"requestor_email": "%x.%s.%d@renter.example", "requestor_phone": "(2%02d) %03d-%04d", '
      .. '"message": "Is it still free? I could come by on any evening of next week, and have a cat.", '
      .. '"unit_preference": "4B", "slot": "2026-12-01T10:00", "utm_data": "utm_source=bench&utm_medium=web", '
      .. '"listing_source": "zillow", "sms_consent": "true"}}',
    number, math.random(0xffffff), prefix, number, math.random(0, 99), math.random(200, 999), math.random(0, 9999))
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
end

function done(summary, latency, requests)
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "statuses_over_399": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
