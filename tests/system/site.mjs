// A small site of two processes on better-sqlite3, in WAL mode with memory-mapped reads, as its documentation recommends.
// PUT, PATCH, DELETE /rows/KEY (body: text) and GET /rows; POST /vacuum; POST /backup: by SQLite's backup API, into the same directory.
import cluster from 'node:cluster';
import http from 'node:http';
import { createRequire } from 'node:module';

const Database = createRequire(process.env.MODULES + '/')('better-sqlite3');

function open() {
	const db = new Database('site.db', { timeout: 20000 });
	db.pragma('journal_mode = WAL');
	db.pragma('synchronous = NORMAL');
	db.pragma('mmap_size = 268435456');
	db.pragma('temp_store = FILE');
	db.exec(`CREATE TABLE IF NOT EXISTS rows(key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
		CREATE TABLE IF NOT EXISTS journal(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT, key TEXT);
		CREATE INDEX IF NOT EXISTS rows_text ON rows(text);`);
	return db;
}

function serve() {
	const db = open();
	const note = db.prepare('INSERT INTO journal(what, key) VALUES (?, ?)');
	const change = (what, sql) => {
		const statement = db.prepare(sql);
		return db.transaction((key, ...args) => {
			if (statement.run(...args, key).changes !== 1) throw new Error(`${what} ${key}: no such row`);
			note.run(what, key);
		}).immediate;
	};
	const put = change('put', 'INSERT INTO rows(text, key) VALUES (?, ?)');
	const patch = change('patch', 'UPDATE rows SET text = ? WHERE key = ?');
	const remove = change('delete', 'DELETE FROM rows WHERE key = ?');
	const all = db.prepare('SELECT key, text FROM rows ORDER BY text, key');

	const actions = {
		PUT: (key, text) => put(key, text),
		PATCH: (key, text) => patch(key, text),
		DELETE: (key) => remove(key),
		GET: () => Object.fromEntries(all.all().map((r) => [r.key, r.text])),
		POST: (key, text, path) => path === '/vacuum' ? db.exec('VACUUM') && {} : db.backup('backup.db').then(() => ({})),
	};
	http.createServer((req, res) => {
		let body = '';
		req.on('data', (d) => { body += d; });
		req.on('end', async () => {
			try {
				const answer = await actions[req.method](decodeURIComponent(req.url.slice('/rows/'.length)), body, req.url);
				res.end(JSON.stringify(answer ?? {}));
			} catch (e) {
				res.statusCode = 500;
				res.end(String(e));
			}
		});
	}).listen(Number(process.env.PORT), '127.0.0.1');
}

if (cluster.isPrimary) {
	open().close(); // the tables, once
	for (let i = 0; i < 2; i++) cluster.fork();
	cluster.on('exit', () => process.exit(1));
} else {
	serve();
}
