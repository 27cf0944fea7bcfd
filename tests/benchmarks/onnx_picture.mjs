// A picture of a page of netron in headless Chromium: node onnx_picture.mjs NODE_FOLDER CHROMIUM URL PICTURE.png
import {createRequire} from "node:module";

const [, , folder, browserPath, url, picture] = process.argv;
const puppeteer = createRequire(folder + "/")("puppeteer-core");
const browser = await puppeteer.launch({
  executablePath: browserPath, args: ["--no-sandbox"], defaultViewport: {width: 1500, height: 2400},
});
try {
  const page = await browser.newPage();
  await page.goto(url);
  const accept = await page.waitForSelector("#message-button", {visible: true, timeout: 5000}).catch(() => null);
  if (accept) await accept.click();
  await page.waitForSelector("#canvas .node", {timeout: 60000});
  await new Promise((done) => setTimeout(done, 2000));
  await page.screenshot({path: picture});
  console.log(await page.evaluate(() => document.querySelectorAll("#canvas .node").length));
} finally {
  await browser.close();
}
