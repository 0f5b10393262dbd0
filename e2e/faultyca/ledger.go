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
	by map[string]entry // the first certificate of each ID
}

type entry struct {
	name string
	der  []byte
}

func openLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{f: f, by: map[string]entry{}}
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
		l.first(fields[0], fields[1], der)
	}
}

func (l *ledger) add(id, name string, der []byte) error {
	if _, err := fmt.Fprintf(l.f, "%s %s %x\n", id, strings.ReplaceAll(name, " ", "_"), der); err != nil {
		return err
	}
	l.first(id, name, der)
	return nil
}

func (l *ledger) first(id, name string, der []byte) {
	if _, ok := l.by[id]; !ok {
		l.by[id] = entry{name, der}
	}
}
