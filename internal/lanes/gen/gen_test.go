package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCommittedFilesAreCurrent(t *testing.T) {
	for name, want := range outputs() {
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not what the generator writes: run go generate in internal/lanes", name)
		}
	}
}

// TestSBoxes checks what FIPS 46-3 says of the S-boxes: each row is a permutation.
func TestSBoxes(t *testing.T) {
	for s, rows := range desS {
		for i, r := range rows {
			seen := map[rune]bool{}
			for _, c := range r {
				seen[c] = true
			}
			if len(r) != 16 || len(seen) != 16 {
				t.Errorf("row %d of S-box %d is no permutation: %s", i, s+1, r)
			}
		}
	}
}

// TestColours checks that no S-box sends or receives two bits at one place.
func TestColours(t *testing.T) {
	var sent, received [8][6]int
	for _, e := range desEdges() {
		sent[e.from][e.colour]++
		received[e.to][e.colour]++
	}
	for s := range 8 {
		for c := range 6 {
			if sent[s][c] != 1 || received[s][c] != 1 {
				t.Errorf("S-box %d sends %d and receives %d bits at place %d", s+1, sent[s][c], received[s][c], c)
			}
		}
	}
}
