"""Asks a scripted metadata service for a token as the clouds' own clients do, and prints it: PRESET ADDRESS KEY_FOLDER."""

import os
import sys

preset, address, key_folder = sys.argv[1:]


def azure(resource):
    from azure.identity import ManagedIdentityCredential

    return ManagedIdentityCredential().get_token(f"{resource}/.default").token


def azure_managed_identity():
    os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = f"http://{address}"
    return azure("https://management.azure.com/")


def azure_app_service():
    os.environ["IDENTITY_ENDPOINT"] = address
    return azure("https://vault.azure.net")


def azure_arc():
    import msal.managed_identity

    # The folder is a constant there.
    msal.managed_identity._supported_arc_platforms_and_their_prefixes[sys.platform] = key_folder
    os.environ["IDENTITY_ENDPOINT"] = f"http://{address}/metadata/identity/oauth2/token"
    os.environ["IMDS_ENDPOINT"] = f"http://{address}"
    return azure("https://management.azure.com/")


def google(make):
    os.environ["GCE_METADATA_HOST"] = address
    from google.auth import compute_engine
    from google.auth.transport.requests import Request

    request = Request()
    credentials = make(compute_engine, request)
    credentials.refresh(request)
    return credentials.token


def gce():
    scope = "https://www.googleapis.com/auth/devstorage.read_only"
    return google(lambda engine, _: engine.Credentials(scopes=[scope]))


def gce_id_token():
    audience = "https://billing.example.com"
    return google(
        lambda engine, request: engine.IDTokenCredentials(
            request, audience, use_metadata_identity_endpoint=True
        )
    )


print(globals()[preset.replace("-", "_")]())
