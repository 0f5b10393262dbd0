package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
)

// ledger is a file with a line for every certificate that was signed: ID, common name, and the certificate in hexadecimal. A line
// reaches the kernel in one write before anything is answered, so that it outlives the process.
type ledger struct {
	f  *os.File
	by map[string][]byte // the first certificate of each ID
}

func openLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{f: f, by: map[string][]byte{}}
	for r := bufio.NewReaderSize(f, 1<<16); ; {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return l, nil
		}
		fields := strings.Fields(line)
		if err != nil || len(fields) != 3 {
			return nil, fmt.Errorf("ledger: %q, %v", line, err)
		}
		der, err := hex.DecodeString(fields[2])
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		if l.by[fields[0]] == nil {
			l.by[fields[0]] = der
		}
	}
}

func (l *ledger) add(id, name string, der []byte) error {
	if _, err := fmt.Fprintf(l.f, "%s %s %x\n", id, strings.ReplaceAll(name, " ", "_"), der); err != nil {
		return err
	}
	if l.by[id] == nil {
		l.by[id] = der
	}
	return nil
}
