"""Fetches a token with an OAuth library, as a program does, and prints it with its lifetime: LIBRARY URL CLIENT SECRET"""

import os
import sys

library, url, client, secret = sys.argv[1:]
# The token endpoint is on this machine, so there is no TLS.
os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

if library == "requests-oauthlib":
    from oauthlib.oauth2 import BackendApplicationClient
    from requests_oauthlib import OAuth2Session

    session = OAuth2Session(client=BackendApplicationClient(client_id=client))
    token = session.fetch_token(url, client_id=client, client_secret=secret)
else:
    from authlib.integrations.requests_client import OAuth2Session

    token = OAuth2Session(client, secret, token_endpoint=url).fetch_token(grant_type="client_credentials")

print(token["access_token"], token["token_type"], token["expires_in"])
