// From scan to webhook: each scan's event must come to the counting receiver, which is asked for it by id.
//
//   qrelay-loadtest receiver --listen 127.0.0.1:8088
//   k6 run -e KEY=qrk_… -e RECEIVER=http://127.0.0.1:8088 loadtest/k6/end-to-end.js
//
// RATE (20) scans a second, SECONDS (30) in all; an event that has not come after WAIT_S (60) is lost. `webhook_ms` is the
// time from the scan's answer to the first look that found its webhook; looks are 50 ms apart.
import http from 'k6/http';
import { check, sleep } from 'k6';
import { Trend } from 'k6/metrics';
import { call, number, scan } from './settings.js';

const receiver = __ENV.RECEIVER || 'http://127.0.0.1:8088';
const [rate, wait] = [number('RATE', 20), number('WAIT_S', 60)];
const webhook = new Trend('webhook_ms', true);

export const options = {
  scenarios: {
    people: {
      executor: 'constant-arrival-rate',
      rate,
      timeUnit: '1s',
      duration: `${number('SECONDS', 30)}s`,
      gracefulStop: `${wait + 10}s`,
      preAllocatedVUs: Math.ceil(rate) + 5,
      maxVUs: Math.ceil(rate * wait) + 10,
    },
  },
  setupTimeout: '60s',
  thresholds: {
    checks: ['rate==1'],
    webhook_ms: [`p(99)<${number('P99_MS', 5000)}`],
    dropped_iterations: [`count<=${number('DROPPED_MAX', 0)}`],
  },
};

export function setup() {
  const code = call('POST', '/v1/codes', { name: 'k6: end to end', destination_url: 'https://example.com/' });
  const endpoint = call('POST', '/v1/endpoints', {
    url: `${receiver}/hook`,
    events: ['scan.created'],
    max_concurrency: 64,
  });
  return { code, endpoint };
}

export default function ({ code }) {
  const answer = scan(code);
  const id = answer.headers['X-Qrelay-Scan'];
  if (!check(answer, { 'is answered with 302': () => answer.status === 302 && Boolean(id) })) {
    return;
  }
  const answered = Date.now();
  while (Date.now() - answered < wait * 1000) {
    const missing = http.post(`${receiver}/-/missing`, id, { tags: { name: 'receiver' } });
    if (missing.status === 200 && missing.json('missing_count') === 0) {
      webhook.add(Date.now() - answered);
      check(id, { 'its webhook came': () => true });
      return;
    }
    sleep(0.05);
  }
  check(id, { 'its webhook came': () => false });
}

export function teardown({ code, endpoint }) {
  call('DELETE', `/v1/endpoints/${endpoint.id}`);
  call('DELETE', `/v1/codes/${code.id}`);
}
