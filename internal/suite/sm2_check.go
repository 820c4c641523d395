package suite

import (
	"bytes"
	"crypto/rand"
	"fmt"

	"github.com/emmansun/gmsm/sm2"

	"caponier/internal/secret"
)

// checkSM2 is the known-answer test of SM2: a signature and a ciphertext that
// OpenSSL 3.0 made are accepted and decrypted, changed ones are not, and what is
// made here comes back.
func checkSM2() error {
	const (
		private    = "91e7979537e6675f5aa1cb7dc9495d9ddacdfbb91aca03518148d654b75cd01f"
		signature  = "3046022100f55c95fc1da2eb7820bf54c0854704307c0cb1d43d73a69ef42ebb22114b3d92022100ef458d7149485dc0a1d21679ad3a3aeb75605bc1c8724b99e3bb4a7e2291de2f"
		ciphertext = "3079022100cbe9c98ed5de532c8e57fc91fce31df014cdbce5bbead4d430f09e127a9cdafa02200edecbee99574f5c96cbfc2411f8646e8652fe996b451b377e427bd838095d860420c4c55fcc56a386b88d059f9e58b4139616a71275e04f1967a9c080180a7352fc04102b0b7ad2199bd1484ec3cf42ace85bd8"
	)
	key, err := sm2.NewPrivateKey(unhex(private))
	if err != nil {
		return fmt.Errorf("sm2: %w", err)
	}
	message, session := []byte("GM/T 0022"), secret.New(unhex(sm4Key))
	defer session.Wipe()
	theirs, made := unhex(signature), unhex(ciphertext)
	if _, err := SM2Verify(&key.PublicKey, "", message, theirs); err != nil {
		return fmt.Errorf("sm2, verify: %w", errAnswer)
	}
	if _, err := SM2Verify(&key.PublicKey, "", message[1:], theirs); err == nil {
		return fmt.Errorf("sm2, verify another message: %w", errAnswer)
	}
	own, err := SM2Sign(rand.Reader, key, "", SM2Style{}, message)
	if err != nil {
		return fmt.Errorf("sm2, sign: %w", err)
	}
	if _, err := SM2Verify(&key.PublicKey, "", message, own); err != nil {
		return fmt.Errorf("sm2, sign: %w", errAnswer)
	}
	sealed, err := SM2Encrypt(rand.Reader, &key.PublicKey, session, SM2DER)
	if err != nil {
		return fmt.Errorf("sm2, encrypt: %w", err)
	}
	for _, c := range [][]byte{made, sealed} {
		plain, _, err := SM2Decrypt(rand.Reader, key, c)
		if err != nil || !bytes.Equal(plain.Bytes(), session.Bytes()) {
			return fmt.Errorf("sm2, decrypt: %w", errAnswer)
		}
		plain.Wipe()
	}
	made[len(made)-1] ^= 1
	if _, _, err := SM2Decrypt(rand.Reader, key, made); err == nil {
		return fmt.Errorf("sm2, decrypt what was changed: %w", errAnswer)
	}
	return nil
}
