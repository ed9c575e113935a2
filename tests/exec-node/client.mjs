// Sends one request with each library, and prints what came back. undici itself obeys no variable; `EnvHttpProxyAgent` does.
import axios from "axios";
import { EnvHttpProxyAgent, fetch as undiciFetch } from "undici";

const [url, library] = process.argv.slice(2);
const libraries = {
  axios: async () => (await axios.get(url)).data,
  undici: async () => (await undiciFetch(url, { dispatcher: new EnvHttpProxyAgent() })).text(),
  fetch: async () => (await fetch(url)).text(),
};
console.log(await libraries[library]());
