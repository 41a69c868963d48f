// A client of an Actual Budget server by its own API, with a data directory of its own. One line of JSON in, one out:
// {do, key, text} -> {} or {rows} or {error}. A row is a transaction of the budget: key and text are its note.
import { mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import readline from 'node:readline';

const api = createRequire(process.env.MODULES + '/')('@actual-app/api');
const { URL: serverURL, PASSWORD: password, DATA: dataDir } = process.env;
const ids = {};
let account;

async function open() {
	mkdirSync(dataDir, { recursive: true });
	await api.init({ dataDir, serverURL, password, verbose: false });
	const budget = (await api.getBudgets()).find((b) => b.groupId);
	if (budget) await download(budget.groupId);
	return {};
}

async function download(group) {
	await api.downloadBudget(group);
	account = (await api.getAccounts())[0].id;
	await list();
}

async function list() {
	const rows = {};
	for (const t of await api.getTransactions(account, '2000-01-01', '2100-01-01')) {
		const at = t.notes.indexOf(' ');
		rows[t.notes.slice(0, at)] = t.notes.slice(at + 1);
		ids[t.notes.slice(0, at)] = t.id;
	}
	return rows;
}

const actions = {
	open,
	async create() {
		await api.runImport('household', async () => {
			await api.createAccount({ name: 'cash' }, 0);
		});
		return {};
	},
	async add({ key, text }) {
		await api.addTransactions(account, [{ date: '2026-01-01', amount: key.length, notes: key + ' ' + text }]);
		await api.sync();
		ids[key] ??= (await list(), ids[key]);
		return {};
	},
	async change({ key, text }) {
		await api.updateTransaction(ids[key], { notes: key + ' ' + text });
		await api.sync();
		return {};
	},
	async remove({ key }) {
		await api.deleteTransaction(ids[key]);
		await api.sync();
		return {};
	},
	async read() {
		return { rows: await list() };
	},
};

for await (const line of readline.createInterface({ input: process.stdin })) {
	const what = JSON.parse(line);
	let answer;
	try {
		answer = await actions[what.do](what);
	} catch (e) {
		answer = { error: String(e?.stack ?? e) };
	}
	process.stdout.write(JSON.stringify(answer) + '\n');
}
process.exit(0);
