// A client of PocketBase by its own JavaScript SDK. One line of JSON in, one out: {do, key, text} -> {} or {rows} or {error}.
import readline from 'node:readline';

const { default: PocketBase } = await import(process.env.MODULES + '/pocketbase/dist/pocketbase.es.mjs');
const pb = new PocketBase(process.env.URL);
const ids = {};
pb.autoCancellation(false);

async function idOf(key) {
	if (!(key in ids)) ids[key] = (await pb.collection('items').getFirstListItem(pb.filter('key = {:key}', { key }))).id;
	return ids[key];
}

const actions = {
	async signIn({ user, password }) {
		await pb.collection('_superusers').authWithPassword(user, password);
		return {};
	},
	async create() {
		await pb.collections.create({
			name: 'items', type: 'base', indexes: ['CREATE UNIQUE INDEX items_key ON items (key)'],
			fields: [{ name: 'key', type: 'text', required: true }, { name: 'text', type: 'text' }],
		});
		return {};
	},
	async add({ key, text }) {
		ids[key] = (await pb.collection('items').create({ key, text })).id;
		return {};
	},
	async change({ key, text }) {
		await pb.collection('items').update(await idOf(key), { text });
		return {};
	},
	async remove({ key }) {
		await pb.collection('items').delete(await idOf(key));
		return {};
	},
	async read() {
		const rows = {};
		for (const r of await pb.collection('items').getFullList({ batch: 500 })) {
			rows[r.key] = r.text;
			ids[r.key] = r.id;
		}
		return { rows };
	},
	async backup({ name }) {
		await pb.backups.create(name);
		return {};
	},
};

for await (const line of readline.createInterface({ input: process.stdin })) {
	const what = JSON.parse(line);
	let answer;
	try {
		answer = await actions[what.do](what);
	} catch (e) {
		answer = { error: String(e) + ' ' + JSON.stringify(e.response ?? {}) };
	}
	process.stdout.write(JSON.stringify(answer) + '\n');
}
