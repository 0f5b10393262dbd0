package main

import (
	"fmt"
	"strings"
	"testing"
)

// A small file can hold very many devices, and a gateway has little memory: so many are taken from a browser.
func TestUploadedDevices(t *testing.T) {
	if all, _, err := readDevices("a.csv", strings.NewReader("name\na\nb\n")); err != nil || len(all) != 2 {
		t.Error(len(all), err)
	}
	var csv, json strings.Builder
	csv.WriteString("name")
	for i := range maxUploaded + 1 {
		fmt.Fprintf(&csv, "\nx%d", i)
		fmt.Fprintf(&json, `{"name":"x%d"}`, i)
	}
	for name, text := range map[string]string{"many.csv": csv.String(), "many.json": json.String()} {
		if _, _, err := readDevices(name, strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "more than 50000 devices") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
