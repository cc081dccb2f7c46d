// Services at work over gRPC: each makes a code, reads it, points it elsewhere, finds it in the list and deletes it.
//
//   k6 run -e KEY=qrk_… loadtest/k6/control-plane.js
//
// RATE (20) such rounds a second, SECONDS (30) in all, P99_MS (200): the p99 of a call at most. The messages are described by
// the server's reflection.
import grpc from 'k6/net/grpc';
import { check } from 'k6';
import { api, key, number } from './settings.js';

const rate = number('RATE', 20);

export const options = {
  scenarios: {
    services: {
      executor: 'constant-arrival-rate',
      rate,
      timeUnit: '1s',
      duration: `${number('SECONDS', 30)}s`,
      preAllocatedVUs: Math.ceil(rate) + 5,
      maxVUs: Math.ceil(rate) * 20 + 10,
    },
  },
  thresholds: {
    checks: ['rate==1'],
    grpc_req_duration: [`p(99)<${number('P99_MS', 200)}`],
    dropped_iterations: [`count<=${number('DROPPED_MAX', 0)}`],
  },
};

const client = new grpc.Client();
const [, scheme, authority] = api.match(/^(https?):\/\/([^/]+)/);
let connected = false;

function ask(method, request) {
  const answer = client.invoke(`qrelay.v1.CodeService/${method}`, request, {
    metadata: { authorization: `Bearer ${key()}` },
    timeout: '30s',
  });
  check(answer, { [`${method} is OK`]: () => answer.status === grpc.StatusOK });
  return answer.message || {};
}

export default function () {
  if (!connected) {
    client.connect(authority, { plaintext: scheme === 'http', reflect: true, timeout: '30s' });
    connected = true;
  }
  const here = 'https://example.com/here';
  const there = 'https://example.com/there';
  const made = ask('CreateCode', { code: { name: 'k6: services', destinationUrl: here } });
  check(made, { 'a new code leads where it should': () => made.destinationUrl === here });
  const read = ask('GetCode', { id: made.id });
  check(read, { 'a code can be read at once': () => read.shortId === made.shortId });
  const changed = ask('UpdateCode', {
    id: made.id,
    code: { destinationUrl: there },
    updateMask: 'destinationUrl',
  });
  check(changed, { 'a changed code leads elsewhere': () => changed.destinationUrl === there });
  const listed = ask('ListCodes', { pageSize: 100 });
  check(listed, { 'there are codes in the list': () => (listed.codes || []).length > 0 });
  ask('DeleteCode', { id: made.id });
}
