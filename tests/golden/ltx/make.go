// make.go - makes the files of this folder with the reference library, github.com/superfly/ltx.
//
//	go mod init golden && go get github.com/superfly/ltx@v0.5.3 && go run make.go block .   # raw LZ4 blocks
//	go mod init golden && go get github.com/superfly/ltx@v0.5.1 && go run make.go frame .   # one LZ4 frame a page
//
// Three states of a database of 512-byte pages: 1.ltx a snapshot of 5 pages, 2.ltx a change of two pages and growth to
// 7, 3.ltx a change of page 1 and shrinking to 4; 1-3.ltx is the compaction of all three, 2-3.ltx of the last two, 3.db the
// database that remains.
package main

import (
	"bytes"
	"context"
	"io"
	"math/rand"
	"os"
	"path/filepath"

	"github.com/superfly/ltx"
)

const pageSize = 512

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func sum(db [][]byte) ltx.Checksum {
	c := ltx.ChecksumFlag
	for i, p := range db {
		c = ltx.ChecksumFlag | (c ^ ltx.ChecksumPage(uint32(i+1), p))
	}
	return c
}

func encode(path string, db [][]byte, txid ltx.TXID, pre ltx.Checksum, pgnos ...uint32) {
	f, err := os.Create(path)
	check(err)
	enc, err := ltx.NewEncoder(f)
	check(err)
	check(enc.EncodeHeader(ltx.Header{
		Version: ltx.Version, PageSize: pageSize, Commit: uint32(len(db)), MinTXID: txid, MaxTXID: txid,
		Timestamp: 1700000000000 + int64(txid), PreApplyChecksum: pre, NodeID: 0x1122334455667788,
	}))
	for _, n := range pgnos {
		check(enc.EncodePage(ltx.PageHeader{Pgno: n}, db[n-1]))
	}
	enc.SetPostApplyChecksum(sum(db))
	check(enc.Close())
	check(f.Close())
}

func compact(out string, in ...string) {
	var rd []io.Reader
	for _, name := range in {
		b, err := os.ReadFile(name)
		check(err)
		rd = append(rd, bytes.NewReader(b))
	}
	f, err := os.Create(out)
	check(err)
	c, err := ltx.NewCompactor(f, rd)
	check(err)
	check(c.Compact(context.Background()))
	check(f.Close())
}

func main() {
	rnd := rand.New(rand.NewSource(7))
	page := func() []byte { // half text, half noise
		p := bytes.Repeat([]byte("fazt "), 103)[:pageSize]
		rnd.Read(p[pageSize/2:])
		return p
	}
	name := func(s string) string { return filepath.Join(os.Args[2], os.Args[1]+"-"+s+".ltx") }

	var db [][]byte
	for i := 0; i < 5; i++ {
		db = append(db, page())
	}
	db[2] = make([]byte, pageSize)
	encode(name("1"), db, 1, 0, 1, 2, 3, 4, 5)
	pre := sum(db)
	db[1], db[4] = page(), page()
	db = append(db, page(), page())
	encode(name("2"), db, 2, pre, 2, 5, 6, 7)
	pre = sum(db)
	db[0] = page()
	db = db[:4]
	encode(name("3"), db, 3, pre, 1)
	compact(name("1-3"), name("1"), name("2"), name("3"))
	compact(name("2-3"), name("2"), name("3"))
	check(os.WriteFile(filepath.Join(os.Args[2], "3.db"), bytes.Join(db, nil), 0o644))
}
