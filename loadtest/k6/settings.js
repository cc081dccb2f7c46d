// What the scripts are told by the environment, and the few calls of the API that they share.
import http from 'k6/http';
import { fail } from 'k6';

// The edge, where codes are scanned.
export const edge = __ENV.EDGE || 'http://127.0.0.1:8080';
// The API, over REST and gRPC.
export const api = __ENV.API || 'http://127.0.0.1:7070';

// A number of the environment.
export function number(name, otherwise) {
  const value = Number(__ENV[name] || otherwise);
  return Number.isFinite(value) && value >= 0 ? value : fail(`${name} is not a number, zero or above`);
}

// The key of a tenant, which owns what a script makes.
export function key() {
  return __ENV.KEY || fail('KEY is missing: the API key of a tenant');
}

// A call of the REST API; anything but 2xx ends the run.
export function call(method, path, body) {
  const answer = http.request(method, api + path, body ? JSON.stringify(body) : null, {
    headers: { authorization: `Bearer ${key()}`, 'content-type': 'application/json' },
    responseType: 'text',
    tags: { name: 'api' },
  });
  if (answer.status < 200 || answer.status > 299) {
    fail(`${method} ${path}: ${answer.status} ${answer.body || answer.error}`);
  }
  return answer.json();
}

// Scans a code, without following its redirect.
export function scan(code) {
  return http.get(`${edge}/${code.short_id}`, { redirects: 0, tags: { name: 'scan' } });
}
