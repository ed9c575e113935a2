"""Sends one request with a library, and prints what came back."""

import asyncio
import sys
import urllib.request

URL, LIBRARY = sys.argv[1:]


def with_urllib():
    with urllib.request.urlopen(URL) as response:
        return response.read().decode()


def with_requests():
    import requests

    return requests.get(URL).text


def with_httpx():
    import httpx

    return httpx.get(URL).text


async def fetch():
    import aiohttp

    async with aiohttp.ClientSession(trust_env=True) as session, session.get(URL) as response:
        return await response.text()


def with_aiohttp():
    return asyncio.run(fetch())


print(globals()[f"with_{LIBRARY}"]())
