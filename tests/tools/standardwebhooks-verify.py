"""Run by standardwebhooks-verify-python, which says what this reads and returns."""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

try:
    delivery = json.load(sys.stdin)
    for name, kind in (("secret", str), ("headers", dict), ("body", str)):
        if not isinstance(delivery[name], kind):
            raise TypeError(f'"{name}" must be of type {kind.__name__}')
except (ValueError, KeyError, TypeError) as error:
    print(f"input: {error}", file=sys.stderr)
    sys.exit(2)
try:
    Webhook(delivery["secret"]).verify(delivery["body"], delivery["headers"])
except WebhookVerificationError as error:
    print(f"not verified: {error}", file=sys.stderr)
    sys.exit(1)
