package words

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzReadLine: lines are those of the input, each within the buffer with its end or told to be too long, and the end comes alone.
func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"))
	f.Add(append(bytes.Repeat([]byte("x"), 40), "\ny"...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), 16)
		for _, want := range bytes.SplitAfter(data, []byte("\n")) {
			if len(want) == 0 {
				break // behind the last line's end
			}
			line, tooLong, err := ReadLine(r)
			plain := bytes.TrimSuffix(bytes.TrimSuffix(want, []byte("\n")), []byte("\r"))
			fits := len(want) < 16 || len(want) == 16 && want[15] == '\n'
			if err != nil || tooLong == fits || !tooLong && !bytes.Equal(line, plain) {
				t.Fatalf("%q: %q, %v, %v", want, line, tooLong, err)
			}
		}
		if line, tooLong, err := ReadLine(r); !errors.Is(err, io.EOF) || line != nil || tooLong {
			t.Errorf("%q, %v, %v", line, tooLong, err)
		}
	})
}
