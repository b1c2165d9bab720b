// @ts-check
/// <reference path="../../types/nex.d.ts" />

/**
 * Fetches the URLs in its payload, one a line, all at the same time.
 * @param {string} _subject
 * @param {Uint8Array} payload
 */
export default async function fetchAll(_subject, payload) {
  const urls = new TextDecoder().decode(payload).split("\n").filter((url) => url.trim() !== "");
  return await Promise.all(urls.map(async (url) => {
    try {
      const response = await fetch(url.trim());
      return { url: response.url, status: response.status, bytes: (await response.arrayBuffer()).byteLength };
    } catch (error) {
      return { url, error: error instanceof Error ? error.message : String(error) };
    }
  }));
}
