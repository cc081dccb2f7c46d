// A crowd: scans at a quiet rate, then a spike of RATE scans a second, then quiet again. Open loop: arrivals do not wait for
// answers, and those that find no free virtual user are counted as dropped.
//
//   k6 run -e KEY=qrk_… loadtest/k6/redirect-spike.js
//
// RATE (2000) scans/s at the top, SECONDS (60) in all, P99_MS (20): the redirect's p99 at most.
import { check } from 'k6';
import { call, number, scan } from './settings.js';

const [rate, seconds, p99] = [number('RATE', 2000), number('SECONDS', 60), number('P99_MS', 20)];
const part = (share) => `${Math.max(1, Math.round(seconds * share))}s`;

export const options = {
  discardResponseBodies: true,
  scenarios: {
    crowd: {
      executor: 'ramping-arrival-rate',
      startRate: Math.ceil(rate / 10),
      timeUnit: '1s',
      preAllocatedVUs: Math.ceil(rate / 20) + 5,
      maxVUs: Math.ceil(rate / 2) + 10,
      stages: [
        { target: Math.ceil(rate / 10), duration: part(0.2) },
        { target: rate, duration: part(0.1) },
        { target: rate, duration: part(0.4) },
        { target: Math.ceil(rate / 10), duration: part(0.1) },
        { target: Math.ceil(rate / 10), duration: part(0.2) },
      ],
    },
  },
  thresholds: {
    checks: ['rate==1'],
    'http_req_duration{name:scan}': [`p(99)<${p99}`],
    dropped_iterations: [`count<=${number('DROPPED_MAX', 0)}`],
  },
};

export function setup() {
  return call('POST', '/v1/codes', { name: 'k6: spike', destination_url: 'https://example.com/landing' });
}

export default function (code) {
  check(scan(code), {
    'is answered with 302': (answer) => answer.status === 302,
    'tells the id of its event': (answer) => (answer.headers['X-Qrelay-Scan'] || '').startsWith('evt_'),
  });
}

export function teardown(code) {
  call('DELETE', `/v1/codes/${code.id}`);
}
