import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.interfaces.ECKey;
import java.security.spec.ECGenParameterSpec;

/** Key pairs by the names that a configuration has for them: P-256, Ed25519, RSA-2048. */
final class Keys {
    static KeyPair generate(String name) throws Exception {
        if (name.startsWith("RSA-")) {
            KeyPairGenerator g = KeyPairGenerator.getInstance("RSA", "SunRsaSign"); // several times as fast as BouncyCastle
            g.initialize(Integer.parseInt(name.substring(4)));
            return g.generateKeyPair();
        }
        if (name.equals("Ed25519")) {
            return KeyPairGenerator.getInstance("Ed25519", "BC").generateKeyPair();
        }
        KeyPairGenerator g = KeyPairGenerator.getInstance("EC", "BC");
        g.initialize(new ECGenParameterSpec(name));
        return g.generateKeyPair();
    }

    /** The signature algorithm that suits a key, RSA with PKCS#1. */
    static String signature(PrivateKey key) {
        if (key instanceof ECKey) {
            int bits = ((ECKey) key).getParams().getOrder().bitLength();
            return bits <= 256 ? "SHA256withECDSA" : bits <= 384 ? "SHA384withECDSA" : "SHA512withECDSA";
        }
        return key.getAlgorithm().equals("RSA") ? "SHA256withRSA" : "Ed25519";
    }

    /** Whether the private key is that of the public one: what one signs, the other verifies. */
    static boolean match(PrivateKey key, PublicKey pub) throws Exception {
        Signature s = Signature.getInstance(signature(key), "BC");
        s.initSign(key);
        s.update(new byte[] {1, 2, 3});
        byte[] signed = s.sign();
        Signature v = Signature.getInstance(signature(key), "BC");
        v.initVerify(pub);
        v.update(new byte[] {1, 2, 3});
        return v.verify(signed);
    }
}
