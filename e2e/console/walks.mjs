// Walks through the console in Chromium: node walks.mjs WALK. In the folder are the operators' certificates and the files to import.
import { createRequire } from 'node:module'
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'

const { chromium } = createRequire(process.env.TOOLS + '/')('playwright')
const admin = process.env.ADMIN
// The name as RFC 4514 writes it: what would not be plain text is escaped, and stands there for all to see.
const hostile = "evil\\<script\\>document.title='owned'\\</script\\>"

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || ['/usr/bin/chromium', '/usr/bin/chromium-headless-shell'].find(existsSync),
  args: ['--no-sandbox', '--disable-dev-shm-usage'],
})

const desktop = { width: 1280, height: 860 }
const phone = { width: 360, height: 740 }

// visitor opens a browser of somebody's. Violations of the policy, errors on the console and dialogs are faults.
async function visitor(who, options = {}) {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true, viewport: desktop, reducedMotion: 'reduce',
    clientCertificates: who ? [{ origin: admin, certPath: who + '.pem', keyPath: who + '.key' }] : [], ...options,
  })
  const page = await context.newPage()
  page.faults = []
  page.expected = [] // statuses that may come
  page.on('console', m => {
    const status = /the server responded with a status of (\d+)/.exec(m.text())
    if (status && page.expected.includes(Number(status[1]))) return
    if (m.type() === 'error' || m.type() === 'warning') page.faults.push(`${page.url()}: ${m.text()}`)
  })
  page.on('pageerror', e => page.faults.push(`${page.url()}: ${e}`))
  page.on('dialog', d => { page.faults.push(`a dialog: ${d.message()}`); d.dismiss() })
  page.on('request', r => { if (!r.url().startsWith(admin)) page.faults.push(`a request elsewhere: ${r.url()}`) })
  if (options.javaScriptEnabled !== false) {
    await page.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', e => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`))
    })
  }
  return page
}

async function signedIn(who, options) {
  const page = await visitor(who, options)
  await page.goto(admin + '/')
  await page.getByRole('button', { name: 'Sign in with this certificate' }).click()
  await page.getByRole('heading', { name: 'Overview' }).waitFor()
  return page
}

async function shot(page, name) {
  await page.screenshot({ path: `${process.env.SHOTS}/${name}.png`, fullPage: true })
}

// upright: nothing sticks out of the page.
async function upright(page) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
  assert.ok(over <= 0, `${page.url()} is ${over} pixels too wide`)
}

const words = async page => (await page.locator('main').innerText())

const walks = {
  async day() {
    const page = await visitor('alice')
    await page.goto(admin + '/console/pending')
    await shot(page, 'sign-in')
    await page.getByRole('button', { name: 'Sign in with this certificate' }).click()
    await page.waitForURL('**/console/pending') // where one wanted to go
    await page.getByRole('link', { name: 'Overview' }).click()
    await page.getByText('requests wait for approval').waitFor()
    await shot(page, 'overview')

    // One is approved, the other denied.
    await page.getByRole('link', { name: 'Pending' }).click()
    await shot(page, 'pending')
    await page.getByRole('link', { name: /Look and decide\s+CN=laptop-1/ }).click()
    await shot(page, 'held')
    await page.getByLabel('Reason, for the audit trail').fill('asked for by the office')
    await page.getByRole('button', { name: 'Approve' }).click()
    await page.getByText('Your approval stands.').waitFor()
    assert.match(await words(page), /was issued a certificate for CN=laptop-1/)
    assert.match(await words(page), /cert:CN=alice,O=Ops at .*asked for by the office/)
    await page.getByRole('link', { name: 'Pending' }).click()
    await page.getByRole('link', { name: /Look and decide\s+CN=laptop-2/ }).click()
    await page.getByLabel('Reason (the device is not told)').fill('nobody knows it')
    await page.getByRole('button', { name: 'Deny' }).click()
    await page.getByText('nothing is issued').waitFor()
    await page.getByRole('link', { name: 'Pending' }).click()
    await page.getByText('Nothing waits for approval').waitFor()

    // A device was refused: which, and why.
    await page.getByRole('link', { name: 'Transactions' }).click()
    await page.getByLabel('State').selectOption('refused') // the list follows by itself
    await page.waitForURL('**state=refused**')
    await page.locator('#list').getByText('issued', { exact: true }).waitFor({ state: 'detached' })
    await shot(page, 'transactions')
    await page.getByRole('row', { name: /unit-7/ }).getByRole('link').first().click()
    await page.getByRole('heading', { name: /refused by the stage inventory/ }).waitFor()
    assert.match(await words(page), /is no device's/)
    await shot(page, 'explain')

    // What the name says is text.
    await page.goto(admin + '/console/transactions?state=refused')
    await page.getByRole('row', { name: /evil/ }).getByRole('link').first().click()
    const text = await words(page)
    for (const want of [hostile, '\\<img src=x onerror=alert(1)\\>', '\\1b[31mred', '\\e2\\80\\aegnp.exe', '\\00end']) {
      assert.ok(text.includes(want), `${want} is not in\n${text}`)
    }
    assert.ok(!/[\u0000-\u0008\u001b\u202e]/.test(await page.content()), 'a control stands in the page')
    assert.notEqual(await page.title(), 'owned')
    assert.equal(await page.locator('main script, main img').count(), 0)
    await shot(page, 'hostile')

    // Devices: a faulty file, then a good one.
    await page.getByRole('link', { name: 'Devices', exact: true }).click()
    await page.getByRole('link', { name: 'Import' }).click()
    page.expected = [422]
    await page.getByLabel('File', { exact: true }).setInputFiles('faulty.csv')
    await page.getByRole('button', { name: 'Import' }).click()
    await page.getByText('Nothing was imported.').waitFor()
    assert.match(await words(page), /faulty\.csv:2: mac "nonsense"/)
    assert.match(await words(page), /faulty\.csv:3: enrollments "many"/)
    await shot(page, 'import-faulty')
    page.expected = []
    await page.getByLabel('File', { exact: true }).setInputFiles('units.csv')
    await page.getByRole('button', { name: 'Import' }).click()
    await page.getByText('imported 3 devices (3 new, 0 replaced)').waitFor()
    await shot(page, 'import')
    await page.getByRole('link', { name: 'Show devices' }).click()
    await page.getByLabel('Name begins with').fill('unit-9')
    await page.getByRole('row', { name: /unit-7/ }).waitFor({ state: 'detached' })
    await page.getByLabel('Name begins with').fill('')
    await page.getByRole('row', { name: /unit-7/ }).waitFor()
    await shot(page, 'devices')
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByText('You are signed out.').waitFor()
    await page.goBack()
    await page.getByRole('button', { name: 'Sign in with this certificate' }).waitFor()
    return [page]
  },

  async revoke() {
    const page = await signedIn('alice')
    await page.getByRole('link', { name: 'Devices', exact: true }).click()
    await page.getByLabel('Find by name or identifier').fill('SN0007')
    await page.getByRole('button', { name: 'Find' }).click()
    await page.getByRole('heading', { name: 'unit-7' }).waitFor()
    await shot(page, 'device')
    await page.getByRole('link', { name: /Revoke\s+CN=unit-7/ }).click()
    await page.getByLabel('Reason').selectOption('keyCompromise')
    await page.getByLabel('Note, for the audit trail').fill('stolen')
    await shot(page, 'revoke')
    await page.getByRole('button', { name: 'Revoke' }).click()
    await page.getByText('Revoked. The CA has been told.').waitFor()
    await page.getByRole('link', { name: 'Certificates' }).click()
    await page.getByText('keyCompromise').waitFor()
    await shot(page, 'certificates')
    await page.getByLabel('valid ones only').check()
    await page.getByText('keyCompromise').waitFor({ state: 'detached' })
    return [page]
  },

  // looks walks over all pages by light and dark, wide and narrow.
  async looks() {
    const all = []
    const held = ['', 'transactions', 'pending', 'devices', 'devices/import', 'certificates', 'cas', 'configuration', 'device?name=unit-7']
    for (const [name, options] of Object.entries({
      phone: { viewport: phone, hasTouch: true, isMobile: true }, dark: { colorScheme: 'dark' },
      'phone-dark': { viewport: phone, colorScheme: 'dark', isMobile: true }, wide: { viewport: { width: 1900, height: 1000 } }, light: {},
    })) {
      const page = await signedIn('alice', options)
      for (const path of held) {
        await page.goto(`${admin}/console/${path}`)
        await upright(page)
        await shot(page, `${name}-${path.replace(/\W+/g, '-') || 'overview'}`)
        await contrast(page)
      }
      await page.goto(admin + '/console/transactions?state=refused')
      await page.getByRole('row', { name: /evil/ }).getByRole('link').first().click()
      await upright(page)
      await contrast(page)
      await shot(page, `${name}-hostile`)
      await page.goto(admin + '/console/?span=week')
      for (const d of await page.locator('figure details').all()) await d.evaluate(x => { x.open = true })
      await upright(page)
      await contrast(page)
      await shot(page, `${name}-numbers`)
      all.push(page)
    }
    return all
  },

  async keyboard() {
    const page = await visitor('bob')
    await page.goto(admin + '/')
    await page.keyboard.press('Enter') // the button of the sign-in has the focus
    await page.getByRole('heading', { name: 'Overview' }).waitFor()
    await page.keyboard.press('Tab')
    assert.equal(await page.locator(':focus').innerText(), 'Skip to content')
    const ring = await page.locator(':focus').evaluate(x => getComputedStyle(x).outlineStyle)
    assert.notEqual(ring, 'none')
    await shot(page, 'keyboard-skip')
    await page.keyboard.press('Enter')
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main')
    await page.goto(admin + '/console/')
    await tabTo(page, 'Pending')
    await shot(page, 'keyboard-focus')
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'Pending approvals' }).waitFor()
    await tabTo(page, /Look and decide/)
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'Decide' }).waitFor()
    await tabTo(page, 'approve-reason')
    await page.keyboard.type('by keyboard')
    await page.keyboard.press('Enter')
    await page.getByText('Your approval stands.').waitFor()
    // An approver is not offered what takes an administrator, and does not get it by its address.
    assert.equal(await page.getByRole('link', { name: 'Revoke' }).count(), 0)
    page.expected = [403]
    const refused = await page.goto(admin + '/console/devices/import')
    assert.equal(refused.status(), 403)
    await page.getByText('this takes more than the role approver').waitFor()
    await shot(page, 'forbidden')
    page.expected = []
    await page.goto(admin + '/console/')
    await tabTo(page, 'Sign out')
    await page.keyboard.press('Enter')
    await page.getByText('You are signed out.').waitFor()
    return [page]
  },

  async plain() {
    const page = await signedIn('alice', { javaScriptEnabled: false })
    await page.getByRole('link', { name: '7 days' }).click()
    await page.getByRole('link', { name: 'Transactions' }).click()
    await page.getByLabel('State').selectOption('held')
    await page.getByRole('button', { name: 'Show' }).click()
    await page.getByRole('row', { name: /laptop-1/ }).getByRole('link').first().click()
    await page.getByRole('button', { name: 'Approve' }).click()
    await page.getByText('Your approval stands.').waitFor()
    await page.getByRole('link', { name: 'Devices', exact: true }).click()
    await page.getByRole('link', { name: 'Import' }).click()
    await page.getByLabel('File', { exact: true }).setInputFiles('units.csv')
    await page.getByRole('button', { name: 'Import' }).click()
    await page.getByText('imported 1 devices').waitFor()
    await page.getByRole('link', { name: 'Show devices' }).click()
    await page.getByRole('link', { name: 'unit-1' }).click()
    await page.getByRole('button', { name: 'Disable' }).click()
    await page.getByText('Disabled: it gets no certificates').waitFor()
    return [page]
  },

  async strangers() {
    const nobody = await visitor(null)
    await nobody.goto(admin + '/console/devices')
    await nobody.getByText('Your browser has shown no client certificate').waitFor()
    await shot(nobody, 'stranger')
    const mallory = await visitor('mallory')
    await mallory.goto(admin + '/console/devices')
    await mallory.getByText("is no operator's here").waitFor()
    // A form of another site's, sent with the certificate and the session of who looks at it.
    const alice = await signedIn('alice')
    const context = alice.context()
    await context.route('https://elsewhere.example/**', r => r.fulfill({ contentType: 'text/html', body: `<form method=post action="${admin}/console/signout"><button>Win</button></form>` }))
    const other = await context.newPage()
    await other.goto('https://elsewhere.example/')
    const [answer] = await Promise.all([other.waitForResponse(r => r.url().startsWith(admin)), other.getByRole('button', { name: 'Win' }).click()])
    assert.equal(answer.status(), 403)
    await alice.reload()
    await alice.getByRole('heading', { name: 'Overview' }).waitFor() // still signed in
    // The API is not for pages, be they the console's own.
    alice.expected = [403]
    assert.equal(await alice.evaluate(async () => (await fetch('/v1/status')).status), 403)
    // Cookies are for the browser alone.
    assert.equal(await alice.evaluate(() => document.cookie), '')
    const cookies = await context.cookies()
    assert.deepEqual(cookies.map(c => [c.name, c.httpOnly, c.secure, c.sameSite, c.path]), [['__Host-muster', true, true, 'Lax', '/']])
    // What is put into a page by force is not run.
    const run = await alice.evaluate(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); return window.ran })
    assert.equal(run, undefined)
    alice.faults = alice.faults.filter(f => !/script-src|policy: script-src/.test(f))
    return [nobody, mallory, alice]
  },
}

// tabTo goes on by the tabulator until something has the focus.
async function tabTo(page, what) {
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press('Tab')
    const at = await page.evaluate(() => [document.activeElement.id, (document.activeElement.innerText || '').trim()])
    if (at.some(x => typeof what === 'string' ? x === what : what.test(x))) return
  }
  throw new Error(`the tabulator does not lead to ${what} on ${page.url()}`)
}

// contrast looks at all text that is shown: 4.5 to 1, or 3 to 1 where it is large (WCAG 2.2, 1.4.3).
async function contrast(page) {
  const poor = await page.evaluate(() => {
    const parse = c => { const n = c.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1] }
    const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b }
    const behind = x => { for (; x; x = x.parentElement) { const c = parse(getComputedStyle(x).backgroundColor); if (c[3] > 0) return c } return [255, 255, 255, 1] }
    const bad = []
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let n; (n = walker.nextNode());) {
      const x = n.parentElement
      if (!n.textContent.trim() || !x.getClientRects().length) continue
      const s = getComputedStyle(x)
      const svg = x.namespaceURI.endsWith('svg')
      if (svg && x.tagName !== 'text') continue
      const [a, b] = [light(parse(svg ? s.fill : s.color).slice(0, 3)), light(behind(svg ? x.ownerSVGElement : x).slice(0, 3))].sort((p, q) => q - p)
      const ratio = (a + 0.05) / (b + 0.05)
      const large = parseFloat(s.fontSize) >= 24 || parseFloat(s.fontSize) >= 18.66 && Number(s.fontWeight) >= 700
      if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)} ${x.tagName}.${x.className.baseVal ?? x.className}: ${n.textContent.trim().slice(0, 40)}`)
    }
    return bad
  })
  assert.deepEqual(poor, [], page.url())
}

let pages
try {
  pages = await walks[process.argv[2]]()
  const faults = pages.flatMap(p => p.faults)
  assert.deepEqual(faults, [])
} catch (e) {
  for (const context of browser.contexts()) for (const p of context.pages()) {
    console.error(p.url(), p.faults)
    console.error((await p.locator('body').innerText().catch(() => '')).slice(0, 2000))
    await p.screenshot({ path: `${process.env.SHOTS}/fault.png`, fullPage: true }).catch(() => {})
  }
  throw e
} finally {
  await browser.close()
}
